;; Makes thousands of instances of one module.
(component
  (core module $m)
  {{5000 (core instance (instantiate $m))}})
