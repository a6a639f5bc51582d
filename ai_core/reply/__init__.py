"""Replies to messages.

write          write a reply with the writer of the settings, and return the job that speaks it
base           the reply, the protocol of its writers, validation of their input
template       replies from templates, by the kind of question (question) and the shape of each point (point_shape)
chat           replies by a language model
"""
