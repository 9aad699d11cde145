"""The Sync-TVA network and its weights file; nothing here knows of ROS, corpora or microphones."""
