/* Requests of threads to the scheduler; the kernel may refuse each, which costs latency and nothing else. */
#ifndef QMPSERVER_SCHEDULE_H
#define QMPSERVER_SCHEDULE_H

void ask_short_slice(void);
void ask_real_time(void);

#endif
