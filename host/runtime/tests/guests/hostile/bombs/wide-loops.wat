;; The same, nine times as wide.
(component
  (core module (func {{3000 (local i32)}} {{3000 loop}} {{3000 local.get # i32.const 1 i32.add local.set #}} {{3000 end}})))
