"""Training jobs as pods: what is packed, made, waited for and told."""
