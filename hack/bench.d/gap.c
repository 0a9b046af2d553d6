/*
 * How long a process of the guest that never sleeps was kept from running: it
 * reads the clock again and again, and notes what passes between two readings.
 *
 *   gap SECONDS    prints the longest, in microseconds, then how many were
 *                  longer than 1 ms, 10 ms and 100 ms, then all readings
 *
 * Without a C library, so that it is small enough to be typed into a guest.
 */

struct time {
	long seconds, nanoseconds;
};

static long call(long number, long first, const void *second, long third)
{
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(first), "S"(second), "d"(third)
			 : "rcx", "r11", "memory");
	return result;
}

/* clock_gettime(CLOCK_MONOTONIC) */
static long now_us(void)
{
	struct time now;

	call(228, 1, &now, 0);
	return now.seconds * 1000000 + now.nanoseconds / 1000;
}

static void print(long number, char after)
{
	char text[24], *at = text + sizeof(text);

	*--at = after;
	do
		*--at = '0' + number % 10;
	while (number /= 10);
	call(1, 1, at, text + sizeof(text) - at);
}

void run(long *stack)
{
	long seconds = 0, longest = 0, longer[3] = { 0 }, readings = 0;
	long last = now_us(), end;

	if (stack[0] > 1)
		for (const char *digit = (const char *)stack[2]; *digit; digit++)
			seconds = seconds * 10 + *digit - '0';
	end = last + seconds * 1000000;
	while (last < end) {
		long now = now_us(), gap = now - last;

		if (gap > longest)
			longest = gap;
		longer[0] += gap > 1000;
		longer[1] += gap > 10000;
		longer[2] += gap > 100000;
		readings++;
		last = now;
	}
	print(longest, ' ');
	for (int i = 0; i < 3; i++)
		print(longer[i], ' ');
	print(readings, '\n');
	call(231, 0, 0, 0);
}

__asm__(".globl _start\n_start: mov %rsp, %rdi\n and $-16, %rsp\n call run\n");
