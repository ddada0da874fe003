"""The engine that orders journal records: one member today, Raft and etcd behind the same interface."""
