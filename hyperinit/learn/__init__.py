"""Images -> a trained init: losses, the outer loop, its log."""
