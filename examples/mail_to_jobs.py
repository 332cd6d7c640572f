#!/usr/bin/env python3
"""Turn e-mails into outlay jobs.

Reads JSON lines with "subject" and "text" (and, if you like, "source") from FILE or stdin and
writes one outlay job per mail and task to stdout. The jobs have no id: outlay derives it from
the content, so the same mails give the same ids. A bad line is reported as file:line and left
out, the others go on; the exit code is then 1.
"""
import argparse
import json
import sys

TASKS = {
    "email.parse": (400, "Read the e-mail and answer with one JSON object and nothing else. Keys: "
                    '"sender" (name and address, or null), "intent" (a few words), "dates" (list of ISO 8601 dates), '
                    '"amounts" (list of {"value": decimal string, "currency": ISO code}), '
                    '"action" (what the recipient has to do, or null).'),
    "email.summary": (160, "Summarise the e-mail in at most three sentences, in the language of the e-mail. "
                      "Leave out greetings, signatures and quoted text that adds nothing."),
}


def job(project, task, text):
    limit, system = TASKS[task]
    messages = [{"role": "system", "content": system}, {"role": "user", "content": text}]
    return {"project": project, "task": task, "messages": messages, "max_output_tokens": limit, "temperature": 0}


def jobs(line, project, tasks):
    mail = json.loads(line.decode("utf-8"))
    if not isinstance(mail, dict):
        raise ValueError("not a JSON object")
    for key in ("subject", "text"):
        if not isinstance(mail.get(key), str):
            raise ValueError(f'"{key}" is missing or not a string')
    meta = {"metadata": {"source": mail["source"]}} if isinstance(mail.get("source"), str) else {}
    made = [job(project, task, f"Subject: {mail['subject']}\n\n{mail['text']}") | meta for task in tasks]
    return "".join(json.dumps(j, ensure_ascii=False, separators=(",", ":")) + "\n" for j in made).encode("utf-8")


if __name__ == "__main__":
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("file", nargs="?", default="-", type=argparse.FileType("rb"), help="- or nothing for stdin")
    args.add_argument("--project", default="inbox", help="project of the jobs (default: inbox)")
    args.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS), help="default: all")
    opts, bad = args.parse_args(), 0
    lines = getattr(opts.file, "buffer", opts.file)  # Python before 3.11 opens "-" as text
    for number, line in enumerate(lines, 1):
        try:
            if line.strip():
                sys.stdout.buffer.write(jobs(line, opts.project, opts.tasks))
        except ValueError as error:  # bad JSON, bad UTF-8 and lone surrogates too
            print(f"{opts.file.name}:{number}: {error}", file=sys.stderr)
            bad += 1
    sys.exit(1 if bad else 0)
