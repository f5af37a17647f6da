-- One source of examples within one mixture, for the target task that chose them (no task where the method asks none, such as random).
-- It shows what a mixture is made of: its share of each source beside the share that the source has in the pool it was picked from.
with selected as (
    select
        mixture,
        coalesce(source, pool) as source,
        task
    from mixtures.all
),

candidates as (
    select coalesce(source, pool) as source
    from "unique".all
),

mixture_sizes as (
    select
        mixture,
        count(*) as examples
    from selected
    group by mixture
),

pool_size as (
    select count(*) as examples
    from candidates
),

source_sizes as (
    select
        source,
        count(*) as examples
    from candidates
    group by source
),

selected_groups as (
    select
        mixture,
        source,
        task,
        count(*) as examples
    from selected
    group by mixture, source, task
),

final as (
    select
        g.mixture,
        g.source,
        g.task,
        g.examples,
        g.examples / m.examples as share,
        coalesce(s.examples, 0) as pool_examples,
        coalesce(s.examples, 0) / p.examples as pool_share
    from selected_groups as g
    join mixture_sizes as m on m.mixture = g.mixture
    cross join pool_size as p
    left join source_sizes as s on s.source = g.source
    order by g.mixture, g.examples desc, g.source, g.task nulls last
)

select * from final
