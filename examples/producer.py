#!/usr/bin/env python3
"""Send jobs to a fleet: one JSON object a line, from FILE or stdin. Needs pika (pip install pika).

docs/MESSAGES.md says what a message means; any AMQP 0.9.1 client can do the same. Sending a file
again is harmless: a job is known by its project and id. The broker has every job that was counted;
one that no queue takes is an error, usually because no worker has declared the queues yet.
"""
import argparse
import json

import pika

args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
args.add_argument("file", nargs="?", default="-", type=argparse.FileType(encoding="utf-8"),
                  help="- or nothing for stdin")
args.add_argument("--url", default="amqp://guest:guest@127.0.0.1:5672/%2f",
                  help="RabbitMQ (default: %(default)s)")
args.add_argument("--prefix", default="outlay.", help="[queue] prefix of the fleet (default: outlay.)")
args.add_argument("--reply-to", metavar="QUEUE", help="a queue of yours that gets each result")
opts = args.parse_args()

connection = pika.BlockingConnection(pika.URLParameters(opts.url))
channel = connection.channel()
channel.confirm_delivery()  # basic_publish now waits for the broker: some 500 a second, enough for an example
sent = 0
for line in filter(str.strip, opts.file):
    job = json.loads(line)
    properties = pika.BasicProperties(content_type="application/json", type="outlay.job.v1", delivery_mode=2,
                                      message_id=job.get("id"), reply_to=opts.reply_to)
    lane = job.get("class", "standard")
    channel.basic_publish(opts.prefix + "jobs", lane, line.strip().encode(), properties, mandatory=True)
    sent += 1
connection.close()
print(f"{sent} jobs are in the queue")
