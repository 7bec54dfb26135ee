"""Honest measurement: judges, distances, adherence, memorisation, and the page that shows them. Start with `judge.py`.

judge.py judges.py       classifiers with their evidence          distances.py neighbours.py   sets against sets
features.py              networks that see, and their cache       intervals.py                 how sure a number is
adherence.py             is it what was asked for?                memorisation.py              is it a copy?
evaluate.py measures.py  all of it on one set of pictures         run.py compare.py sweep.py   of runs and folders
report.py page.py charts.py showing.py                            report.html
"""
