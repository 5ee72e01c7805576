;; Conditions in conditions, fifty thousand deep.
(component
  (core module (func {{50000 i32.const 1 if}} {{50000 end}})))
