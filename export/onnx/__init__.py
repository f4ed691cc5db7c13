"""What every export needs: building and converting graphs, precisions, and the comparison with Keras."""
