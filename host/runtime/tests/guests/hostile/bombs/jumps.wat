;; A table of jumps with a hundred thousand entries.
(component
  (core module (func block i32.const 0 br_table {{100000 0}} 0 end)))
