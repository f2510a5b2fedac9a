"""The command's verbs, one a module: ``parser()`` names its words, ``run(args)`` does the work.

A module imports torch only inside ``run``, so that ``--help`` answers at once.
"""
