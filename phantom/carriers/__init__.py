"""What moves a link's bytes: Twisted endpoints, and what strangers meet there."""
