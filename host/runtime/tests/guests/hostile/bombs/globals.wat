;; A hundred thousand variables of a module.
(component
  (core module {{100000 (global (mut i32) (i32.const #))}}))
