"""The street: stages that take events and give events, and the pipeline that connects them."""
