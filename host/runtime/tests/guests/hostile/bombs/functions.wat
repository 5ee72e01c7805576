;; Has more functions than anybody writes.
(component
  (core module $m {{200001 (func)}}))
