import { directory, file, memoryTree } from '../../src/files/memory-tree.ts'
import { fileTreeContract, manyNames, sampleTree } from './file-tree-contract.ts'

const many = directory(Object.fromEntries(manyNames().map(name => [name, file(name)])))

fileTreeContract({ name: 'memory', open: async () => memoryTree({ ...sampleTree, many }) })
