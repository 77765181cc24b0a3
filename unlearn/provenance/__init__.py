"""What an adapter was made from, and under which key that is written down."""
