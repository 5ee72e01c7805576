;; A thousand loops, each of which may change a thousand variables: the compiler's work is the product.
(component
  (core module (func {{1000 (local i32)}} {{1000 loop}} {{1000 local.get # i32.const 1 i32.add local.set #}} {{1000 end}})))
