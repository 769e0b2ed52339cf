// Draws a cluster as text: attention services, shards, and every expert of every layer. Pure functions.
#ifndef CONCLAVE_CLI_TOP_VIEW_H_
#define CONCLAVE_CLI_TOP_VIEW_H_

#include <string>

#include "gateway/cluster/cluster_activity.h"
#include "gateway/cluster/cluster_snapshot.h"

namespace conclave {

// Lines of at most `columns` characters, each ending in '\n'; `colour` allows ANSI colours. At most `layers_max`
// layers.
std::string TopView(const ClusterSnapshot* before, const ClusterSnapshot& now, int columns, int layers_max,
                    bool colour);
// One JSON object of the same.
std::string TopJson(const ClusterSnapshot* before, const ClusterSnapshot& now);

}  // namespace conclave

#endif  // CONCLAVE_CLI_TOP_VIEW_H_
