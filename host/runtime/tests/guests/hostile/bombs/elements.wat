;; Ninety thousand pieces of a table.
(component
  (core module (table 20000 funcref) (func $f) {{90000 (elem (i32.const 5) $f)}}))
