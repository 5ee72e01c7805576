;; A function of a hundred thousand calls of itself.
(component
  (core module (func $f {{100000 call $f}})))
