;; Declares all the memory that there can be.
(component
  (core module $m (memory 65536))
  (core instance (instantiate $m)))
