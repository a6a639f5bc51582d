"""The reply to what was said.

write          the job of speaking a reply, by the writer that the settings name
base           what a writer gets and returns
template       replies from frames, by the kind of question (question) and the shape of each point (point_shape)
chat           replies of a language model
"""
