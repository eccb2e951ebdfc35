"""From connected systems to stored records: the schedule's work, the walks of a stream, what their answers
mean. Knows connectors only by their contract.
"""
