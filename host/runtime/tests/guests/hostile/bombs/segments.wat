;; Ninety thousand pieces of data.
(component
  (core module (memory 1) {{90000 (data (i32.const #) "x")}}))
