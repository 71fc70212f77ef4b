"""BYOL: representations learned by predicting another view of an image, without negative pairs."""
