;; Each type holds the one before it twice: sixty lines, a million million million fields.
(component
  (type (tuple u8 u8)) {{60 (type (tuple # #))}})
