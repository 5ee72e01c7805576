;; Data at both ends of a large memory.
(component
  (core module (memory 4000) (data (i32.const 0) "first") (data (i32.const 262000000) "last")))
