"""From a trained folder to answers."""
