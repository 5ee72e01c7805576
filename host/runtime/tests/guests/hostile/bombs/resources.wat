;; Ninety thousand kinds of resources.
(component
  {{90000 (type (resource (rep i32)))}})
