;; Components in components in components.
{{40 (component}} {{40 )}}
