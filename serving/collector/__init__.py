"""Events in: an HTTP service with a durable spool or Kafka behind it."""
