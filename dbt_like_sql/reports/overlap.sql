-- One pair of mixtures, each pair once and the smaller name first: how many examples both picked, and the Jaccard index (shared / either).
-- It shows which mixtures are near copies of each other; with a single mixture there is no pair, and no row.
with selected as (
    select distinct
        mixture,
        id
    from mixtures.all
),

mixture_sizes as (
    select
        mixture,
        count(*) as examples
    from selected
    group by mixture
),

pairs as (
    select
        a.mixture,
        b.mixture as other_mixture,
        a.examples,
        b.examples as other_examples
    from mixture_sizes as a
    join mixture_sizes as b on a.mixture < b.mixture
),

intersections as (
    select
        a.mixture,
        b.mixture as other_mixture,
        count(*) as shared
    from selected as a
    join selected as b on a.id = b.id and a.mixture < b.mixture
    group by a.mixture, b.mixture
),

final as (
    select
        p.mixture,
        p.other_mixture,
        p.examples,
        p.other_examples,
        coalesce(i.shared, 0) as shared,
        coalesce(i.shared, 0) / (p.examples + p.other_examples - coalesce(i.shared, 0)) as jaccard
    from pairs as p
    left join intersections as i on i.mixture = p.mixture and i.other_mixture = p.other_mixture
    order by p.mixture, p.other_mixture
)

select * from final
