-- One bin of scores, 0.05 wide, of one method for one target task: how many examples of the pool fall into it, and their mean score.
-- It shows how well a method tells the pool apart for a task: a narrow heap means that ranks hang on small differences.
with scores as (
    select
        method,
        task,
        score::double as score
    from scores.all
),

binned as (
    select
        method,
        task,
        score,
        -- rounded first: 0.35 is 0.34999999 as a float; a score that is no number has no bin
        try_cast(floor(round(score * 20, 5)) as bigint) as bin
    from scores
),

task_sizes as (
    select
        method,
        task,
        count(*) as examples
    from binned
    group by method, task
),

bins as (
    select
        method,
        task,
        bin,
        count(*) as examples,
        avg(score) as mean_score
    from binned
    group by method, task, bin
),

final as (
    select
        b.method,
        b.task,
        b.bin / 20 as bin_from,
        (b.bin + 1) / 20 as bin_to,
        b.examples,
        b.examples / t.examples as share,
        round(b.mean_score, 6) as mean_score
    from bins as b
    join task_sizes as t on t.method = b.method and t.task = b.task
    order by b.method, b.task, b.bin nulls last
)

select * from final
