;; Makes forty instances with a memory each.
(component
  (core module $m (memory 1))
  {{40 (core instance (instantiate $m))}})
