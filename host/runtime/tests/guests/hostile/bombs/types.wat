;; A hundred thousand types of functions.
(component
  (core module {{100000 (type (func (param i32)))}}))
