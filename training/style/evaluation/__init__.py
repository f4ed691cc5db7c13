"""How good is a style network, on photographs that no training saw? `reverie eval style`, `make eval-style`.

- `evaluate`: everything about one network; what the commands call.
- `perception`: the photograph's and the painting's errors through VGG19.
- `classifier`, `faces`: whether the same thing and the same faces are found in the picture.
- `surface`: patterns, grain, borders, clipping, flicker.
- `passes`: the objective of chapter 12, in iterations of L-BFGS; optional.
- `peers`, `sheet`: what others reach, and pictures to look at.
"""
