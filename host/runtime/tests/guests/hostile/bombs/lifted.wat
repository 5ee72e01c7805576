;; A function whose parameter is a list of thirty lists of texts.
(component
  (component $a (core module $m (memory (export "memory") 1) (func (export "f") (param i32 i32)) (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 0)) (core instance $i (instantiate $m)) (func (export "f") (param "p" (list (tuple {{30 (list string)}}))) (canon lift (core func $i "f") (memory (core memory $i "memory")) (realloc (core func $i "realloc"))))))
