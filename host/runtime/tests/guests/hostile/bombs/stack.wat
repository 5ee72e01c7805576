;; Thirty thousand values that all live at once.
(component
  (core module (func (param i64) {{30000 local.get 0 i64.const # i64.xor}} {{29999 i64.add}} drop)))
