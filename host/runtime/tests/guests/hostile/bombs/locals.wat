;; As many variables as a function may have, each changed in a loop.
(component
  (core module (func {{49000 (local i64)}} loop {{49000 local.get # i64.const 3 i64.mul local.set #}} br 0 end)))
