;; Offers thousands of things that nobody asked for.
(component
  (core module $m (func (export "f")))
  (core instance $i (instantiate $m))
  (func $f (canon lift (core func $i "f")))
  {{5000 (export "a-#" (func $f))}})
