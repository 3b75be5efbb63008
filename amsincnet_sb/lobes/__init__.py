"""Models assembled from :mod:`amsincnet_sb.nnet`."""
