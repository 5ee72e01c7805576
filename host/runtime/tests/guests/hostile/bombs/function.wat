;; Has one function that takes a compiler longer than it may: nobody's code has two megabytes in one piece.
(component
  (core module $m (func (local i32) {{400000 (local.set 0 (i32.add (local.get 0) (i32.const 1)))}})))
