;; Calls that give a thousand values each.
(component
  (core module (type (func (param {{1000 i64}}) (result {{1000 i64}}))) (func $f (type 0) {{1000 local.get #}}) (func (param i64) {{1000 local.get 0}} {{2000 call $f}} {{1000 drop}})))
