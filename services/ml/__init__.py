"""The model that scores payments: how it is trained, kept, promoted and asked.

`training` makes one out of labelled payments, `store` keeps it sealed, `promotion` decides whether it takes over, and
`scoring` answers with the promoted one. `features` is what all of them look at.
"""
