;; Values that may be missing, of values that may be missing.
(component
  (type (option u8)) {{20000 (type (option #))}})
