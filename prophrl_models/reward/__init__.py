"""Judges of imagined and real videos: did the task succeed?"""
