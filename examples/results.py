#!/usr/bin/env python3
"""Print the results of a fleet as they come, one JSON object a line. Needs pika (pip install pika).

Without --queue it sees what ends from now on, for as long as it runs. With --queue results wait in
a queue of that name while nobody reads them. A result may come twice: know it by project and id.
"""
import argparse

import pika

args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
args.add_argument("pattern", nargs="?", default="#",
                  help="PROJECT.TASK.STATUS with * for any word; a dot within a name is _ (default: # for all)")
args.add_argument("--url", default="amqp://guest:guest@127.0.0.1:5672/%2f",
                  help="RabbitMQ (default: %(default)s)")
args.add_argument("--prefix", default="outlay.", help="[queue] prefix of the fleet (default: outlay.)")
args.add_argument("--queue", default="", help="keep results in this durable queue")
args.add_argument("--count", type=int, help="stop after so many")
opts = args.parse_args()

connection = pika.BlockingConnection(pika.URLParameters(opts.url))
channel = connection.channel()
channel.basic_qos(prefetch_count=100)
kind = {"durable": True, "arguments": {"x-queue-type": "quorum"}} if opts.queue else {"exclusive": True}
queue = channel.queue_declare(opts.queue, **kind).method.queue
channel.queue_bind(queue, opts.prefix + "results", opts.pattern)
try:
    for seen, (method, properties, body) in enumerate(channel.consume(queue), 1):
        print(body.decode(), flush=True)
        channel.basic_ack(method.delivery_tag)
        if seen == opts.count:
            break
except KeyboardInterrupt:
    pass
connection.close()
