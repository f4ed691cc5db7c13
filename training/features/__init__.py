"""The compact feature extractor: a student of VGG19's style and content layers."""
