// SPDX-License-Identifier: GPL-2.0
/*
 * Breaks the kernel it is loaded into, on request: a word written to
 * /proc/lab names the fault.  For throw-away guests of the lab only.
 *
 * What waits or spins does so in a function of its own that is never inlined,
 * and each kernel thread bears the name of its function: tests look for these
 * names in what was found out about the guest.
 */
#include <linux/atomic.h>
#include <linux/completion.h>
#include <linux/cpu.h>
#include <linux/cpumask.h>
#include <linux/delay.h>
#include <linux/fs.h>
#include <linux/gfp.h>
#include <linux/irqflags.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/proc_fs.h>
#include <linux/rwsem.h>
#include <linux/sched.h>
#include <linux/spinlock.h>
#include <linux/tty.h>
#include <linux/uaccess.h>

#define LAB_WORD_MAX 32

static int lab_start(int (*task)(void *), const char *name, int cpu)
{
	struct task_struct *thread = kthread_create(task, NULL, "%s", name);

	if (IS_ERR(thread))
		return PTR_ERR(thread);
	if (cpu >= 0)
		kthread_bind(thread, cpu);
	wake_up_process(thread);
	return 0;
}

static noinline void lab_spin_forever(void)
{
	for (;;)
		cpu_relax();
}

/* A CPU that takes no more interrupts. */

static noinline int lab_irq_off(void *unused)
{
	local_irq_disable();
	lab_spin_forever();
	return 0;
}

static atomic_t lab_cpus_missing;

/*
 * A CPU that went ahead alone could leave another one waiting for its answer
 * to an inter-processor interrupt, with the thread that should stop that other
 * one never scheduled.  So all of them meet first, and from the meeting on
 * none can be preempted.
 */
static noinline int lab_irq_off_all(void *unused)
{
	preempt_disable();
	atomic_dec(&lab_cpus_missing);
	while (atomic_read(&lab_cpus_missing) > 0)
		cpu_relax();
	local_irq_disable();
	lab_spin_forever();
	return 0;
}

static int lab_start_irq_off_all(void)
{
	int cpu, err = 0;

	cpus_read_lock();
	atomic_set(&lab_cpus_missing, num_online_cpus());
	for_each_online_cpu(cpu)
		err = err ?: lab_start(lab_irq_off_all, "lab_irq_off_all", cpu);
	cpus_read_unlock();
	return err;
}

/* A CPU that takes interrupts and never schedules. */

static noinline int lab_soft_lockup(void *unused)
{
	preempt_disable();
	lab_spin_forever();
	return 0;
}

/* A lock that an error path forgot to release. */

static DEFINE_SPINLOCK(lab_spin);

static noinline int lab_forget_unlock(void)
{
	unsigned long flags;

	spin_lock_irqsave(&lab_spin, flags);
	return -EIO;
}

static noinline void lab_take_spin_lock(void)
{
	unsigned long flags;

	spin_lock_irqsave(&lab_spin, flags);
	spin_unlock_irqrestore(&lab_spin, flags);
}

/*
 * One thread plays both parts: if the forgetful one ever scheduled with the
 * lock held, the kernel would report that rather than hang.
 */
static noinline int lab_spin_lock(void *unused)
{
	lab_forget_unlock();
	lab_take_spin_lock();
	return 0;
}

/* Two mutexes taken in opposite order, and who waits for them. */

static DEFINE_MUTEX(lab_mutex_a);
static DEFINE_MUTEX(lab_mutex_b);
static DECLARE_COMPLETION(lab_a_taken);
static DECLARE_COMPLETION(lab_b_taken);

/*
 * A deadlock of our own would not be noticed on the consoles: their shells
 * share no lock with us.  Reading, writing and configuring a terminal all take
 * its termios_rwsem and wait for it uninterruptibly; the kernel's own messages
 * and SysRq do not take it.  The file stays open, or the terminal would go
 * away with the lock in it.
 */
static noinline void lab_hold_console(const char *path)
{
	struct file *file = filp_open(path, O_RDWR | O_NOCTTY | O_NONBLOCK, 0);
	struct tty_file_private *opened;

	if (IS_ERR(file))
		return;
	opened = file->private_data;
	down_write(&opened->tty->termios_rwsem);
}

static noinline int lab_order_ab(void *unused)
{
	lab_hold_console("/dev/hvc0");
	lab_hold_console("/dev/hvc1");
	lab_hold_console("/dev/hvc2");
	lab_hold_console("/dev/ttyS0");
	mutex_lock(&lab_mutex_a);
	complete_all(&lab_a_taken);
	wait_for_completion(&lab_b_taken);
	mutex_lock(&lab_mutex_b);
	return 0;
}

static noinline int lab_order_ba(void *unused)
{
	mutex_lock(&lab_mutex_b);
	complete_all(&lab_b_taken);
	wait_for_completion(&lab_a_taken);
	mutex_lock(&lab_mutex_a);
	return 0;
}

static noinline int lab_bystander(void *unused)
{
	mutex_lock(&lab_mutex_b);
	mutex_unlock(&lab_mutex_b);
	return 0;
}

static int lab_start_deadlock(void)
{
	int err = lab_start(lab_order_ab, "lab_order_ab", -1);

	err = err ?: lab_start(lab_order_ba, "lab_order_ba", -1);
	if (err)
		return err;
	wait_for_completion(&lab_a_taken);
	wait_for_completion(&lab_b_taken);
	return lab_start(lab_bystander, "lab_bystander", -1);
}

/*
 * Eats all memory, and whatever is set free later.  It never calls the OOM
 * killer itself: whoever asks for memory next does.
 */
static noinline int lab_leak(void *unused)
{
	for (;;) {
		if (!alloc_page(GFP_KERNEL | __GFP_NORETRY | __GFP_NOWARN))
			msleep(20);
		cond_resched();
	}
	return 0;
}

static noinline int lab_oops(void)
{
	/* Volatile, or the compiler makes a trap of what it knows is null. */
	int *volatile nowhere = NULL;

	*nowhere = 1;
	return 0;
}

static noinline int lab_panic(void)
{
	panic("lifesign_lab: asked to panic");
}

static int lab_break(const char *fault, int cpu)
{
	if (!strcmp(fault, "panic"))
		return lab_panic();
	if (!strcmp(fault, "oops"))
		return lab_oops();
	if (!strcmp(fault, "irq-off"))
		return lab_start(lab_irq_off, "lab_irq_off", cpu);
	if (!strcmp(fault, "irq-off-all"))
		return lab_start_irq_off_all();
	if (!strcmp(fault, "soft-lockup"))
		return lab_start(lab_soft_lockup, "lab_soft_lockup", cpu);
	if (!strcmp(fault, "spin-lock"))
		return lab_start(lab_spin_lock, "lab_spin_lock", cpu);
	if (!strcmp(fault, "mutex-deadlock"))
		return lab_start_deadlock();
	if (!strcmp(fault, "stand-by"))
		return lab_bystander(NULL);
	if (!strcmp(fault, "leak"))
		return lab_start(lab_leak, "lab_leak", -1);
	if (!strcmp(fault, "realtime")) {
		sched_set_fifo(current);
		return 0;
	}
	return -EINVAL;
}

static ssize_t lab_write(struct file *file, const char __user *text,
			 size_t length, loff_t *offset)
{
	char line[LAB_WORD_MAX + 16] = "", fault[LAB_WORD_MAX] = "";
	int cpu = num_online_cpus() - 1;
	int err;

	if (length >= sizeof(line))
		return -EINVAL;
	if (copy_from_user(line, text, length))
		return -EFAULT;
	if (sscanf(line, "%31s %d", fault, &cpu) < 1)
		return -EINVAL;
	if (cpu < 0 || cpu >= nr_cpu_ids || !cpu_online(cpu))
		return -EINVAL;
	err = lab_break(fault, cpu);
	return err ?: length;
}

static const struct proc_ops lab_ops = {
	.proc_write = lab_write,
};

static int __init lab_init(void)
{
	return proc_create("lab", 0200, NULL, &lab_ops) ? 0 : -ENOMEM;
}
module_init(lab_init);

MODULE_DESCRIPTION("Breaks a throw-away guest on request");
MODULE_LICENSE("GPL");
